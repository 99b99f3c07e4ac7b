"""The classification task: PaddleClas's configs, losses and transforms; our data lists and evaluation."""
