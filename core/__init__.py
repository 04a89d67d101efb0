"""The domain and its storage. Imports none of headrace, web, jobs, workers."""
