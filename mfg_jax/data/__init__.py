"""From records on disk to augmented batches on the device. Only this package touches TFDS and Grain."""
