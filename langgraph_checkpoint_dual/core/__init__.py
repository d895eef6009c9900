"""The savers' logic, written once and free of drivers, threads and event loops."""
