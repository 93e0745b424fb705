"""Questions to the archive: parameterised SQL, one function a question."""
