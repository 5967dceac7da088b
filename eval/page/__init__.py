"""The report page: what a run left on disk, as one HTML file that opens without a network."""
