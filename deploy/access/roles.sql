-- Who may see what on a ClickHouse server of your own: truyvet access apply carries it out in the archive's database,
-- as a user with access management. Every statement may be carried out again. Unqualified names are in that database.
CREATE ROLE IF NOT EXISTS truyvet_tracer;
CREATE ROLE IF NOT EXISTS truyvet_department;
CREATE ROLE IF NOT EXISTS truyvet_analyst;
CREATE ROLE IF NOT EXISTS truyvet_auditor;

-- whoever asks writes the audit first; nobody of them may change or remove it
GRANT INSERT ON lookup_audit TO truyvet_tracer;
GRANT INSERT ON lookup_audit TO truyvet_department;
GRANT INSERT ON lookup_audit TO truyvet_analyst;
GRANT INSERT ON lookup_audit TO truyvet_auditor;

GRANT SELECT ON visits TO truyvet_tracer;
GRANT SELECT ON visits_by_person TO truyvet_tracer;
GRANT SELECT ON venues TO truyvet_tracer;
GRANT SELECT ON cases TO truyvet_tracer;
GRANT SELECT ON cases_current TO truyvet_tracer;
GRANT SELECT ON exposures TO truyvet_tracer;
GRANT SELECT ON venue_warnings TO truyvet_tracer;
GRANT SELECT(source_topic, source_partition, source_offset) ON rejected TO truyvet_tracer;
GRANT SELECT ON presences_of_persons TO truyvet_tracer;
GRANT SELECT ON presences_at_places TO truyvet_tracer;
GRANT SELECT ON contacts_at_places TO truyvet_tracer;
GRANT SELECT ON contacts_of_persons TO truyvet_tracer;
GRANT SELECT ON common_venues TO truyvet_tracer;
GRANT SELECT ON occupancy_of_venue TO truyvet_tracer;
GRANT SELECT ON people_at_places TO truyvet_tracer;
GRANT SELECT ON chain_of_person TO truyvet_tracer;
GRANT SELECT ON visits_by_day TO truyvet_tracer;
GRANT SELECT ON exposures_by_day TO truyvet_tracer;
GRANT SELECT ON warnings_of TO truyvet_tracer;

GRANT SELECT ON venues TO truyvet_department;
GRANT SELECT ON venue_warnings TO truyvet_department;
GRANT SELECT ON department_users TO truyvet_department;
GRANT SELECT ON department_visits_by_day TO truyvet_department;
GRANT SELECT ON department_exposures_by_day TO truyvet_department;
GRANT SELECT ON department_warnings TO truyvet_department;

GRANT SELECT ON analyst_visits_by_day TO truyvet_analyst;
GRANT SELECT ON analyst_exposures_by_day TO truyvet_analyst;

GRANT SELECT ON lookup_audit TO truyvet_auditor;

-- a department sees the warnings of its own venues; everybody else who may read the table, all of them
CREATE ROW POLICY IF NOT EXISTS own_warnings ON venue_warnings
    USING department IN (SELECT department FROM department_users WHERE user = currentUser()) TO truyvet_department;
CREATE ROW POLICY IF NOT EXISTS all_warnings ON venue_warnings USING 1 TO ALL EXCEPT truyvet_department;
CREATE ROW POLICY IF NOT EXISTS own_user ON department_users USING user = currentUser() TO truyvet_department;
CREATE ROW POLICY IF NOT EXISTS all_users ON department_users USING 1 TO ALL EXCEPT truyvet_department;
