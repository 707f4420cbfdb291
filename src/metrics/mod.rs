//! Room: metrics. Evaluation without the matrix.
