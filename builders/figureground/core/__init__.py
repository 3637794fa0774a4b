"""What every room stands on: errors, files, devices, signals."""
