"""All images of a folder: one after the other, each with a record in the ledger."""
