"""A dask cluster as what works on tiles: dask schedules them, nothing of ours does.

::

    client                                      worker
    make_plan, stage
    send the task, once   ->  (scheduler)  ->   HeldTask, opened before its first batch
    submit a batch's numbers      ->            read, convolve, write
    record                        <-            receipts and statistics
"""
