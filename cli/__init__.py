"""The `gigamil` command: each verb parses, builds one options object, calls one function and prints one summary."""
