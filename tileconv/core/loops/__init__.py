"""What is compiled: imported only where it is; see `tileconv.core.compiling`."""
