"""What we remember and show: records, drawings, export."""
