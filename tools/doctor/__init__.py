"""The throughput doctor: measures the stages of a run alone and together, and says which one holds it up."""
