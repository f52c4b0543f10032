"""What every other room stands on: files, errors, how a process ends, clock, threads, optional packages."""
