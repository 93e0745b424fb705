-- Venue step of a scan (_marks_step). Returns { said, flags }.
return { said, flags }
