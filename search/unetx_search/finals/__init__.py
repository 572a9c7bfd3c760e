"""Finals: the best designs of a study and published ones, trained longer on fresh seeds, compared on test cases."""
