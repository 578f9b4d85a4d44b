"""What was trained, on what, how good it is, and which release is the champion: MLflow and the gate."""
