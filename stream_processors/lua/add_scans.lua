-- Both steps of few scans on one server: the venue step (_marks_step), and if every mark is new, the person step of
-- request[3] and request[4] (_index_step). Returns { said, flags, what the person step found if it is done }.
if find(said, '[^n]') then
    return { said, flags }
end
return { said, flags, add_index(request[3], request[4]) }
