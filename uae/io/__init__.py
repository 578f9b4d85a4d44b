"""What every room stands on: files, tables, models on disk, devices, errors."""
