"""Where on a slide the tissue is: found, or drawn by a person."""
