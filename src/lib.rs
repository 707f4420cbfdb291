//! metric-kernels
