"""What a run leaves behind: metrics, files, pictures, pages."""
