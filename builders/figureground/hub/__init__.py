"""Publishing of datasets on the Hugging Face Hub."""
