"""Networks whose weights take less memory."""
