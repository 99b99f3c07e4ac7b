"""What every other package builds on: configs, registry, files, images, display, devices, processes, run folders."""
