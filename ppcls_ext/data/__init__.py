"""From files to batches: lists, transforms, the loader, and the report on what is wrong with a data set."""
