"""An HTTP service around `Predictor`: `pplcnet serve`."""
