-- Numbers without persons, by local date and by district, sector, department or venue; and who may see them where
-- ClickHouse knows users (deploy/access). first, last: days since 1970-01-01, both included. departments: only these,
-- empty: all. Views that say DEFINER are all that a role without rights on the tables can read: no column of them is
-- a person. In them currentUser() is still the one who asks.

-- Which department a user of ClickHouse belongs to; truyvet access grant writes it.
CREATE TABLE IF NOT EXISTS department_users
(
    user       String,
    department String
)
ENGINE = ReplacingMergeTree
ORDER BY (user, department);

CREATE OR REPLACE VIEW visits_by_day AS
SELECT toDate32(toInt32(day)) AS date, grouped, uniqExact(person) AS persons, sum(bitCount(i)) AS check_ins
FROM (
    SELECT intDiv(hour + 7, 24) AS day, person, venue, bitAnd(groupBitOr(ins), bitNot(groupBitOr(voids))) AS i
    FROM visits
    WHERE hour + 7 >= {first:UInt32} * 24 AND hour + 7 < ({last:UInt32} + 1) * 24
    GROUP BY hour, person, venue
    HAVING i != 0
) AS marks
INNER JOIN (
    SELECT
        code,
        multiIf({by:String} = 'venue', code, {by:String} = 'district', district, {by:String} = 'sector', sector, department) AS grouped
    FROM venues FINAL
    WHERE empty({departments:Array(String)}) OR has({departments:Array(String)}, department)
) AS register ON register.code = marks.venue
GROUP BY date, grouped
ORDER BY date, grouped;

-- check_ins: here the number of exposures (one per case, person, venue and date).
CREATE OR REPLACE VIEW exposures_by_day AS
SELECT date, grouped, uniqExact(person) AS persons, count() AS check_ins
FROM (
    SELECT date, person, venue
    FROM (
        SELECT date, person, venue, status
        FROM exposures FINAL
        WHERE date >= toDate32(toInt32({first:UInt32})) AND date <= toDate32(toInt32({last:UInt32}))
    )
    WHERE status = 'exposed'
) AS exposed
INNER JOIN (
    SELECT
        code,
        multiIf({by:String} = 'venue', code, {by:String} = 'district', district, {by:String} = 'sector', sector, department) AS grouped
    FROM venues FINAL
    WHERE empty({departments:Array(String)}) OR has({departments:Array(String)}, department)
) AS register ON register.code = exposed.venue
GROUP BY date, grouped
ORDER BY date, grouped;

-- The warnings that stand. first, last: of the case there, ms.
CREATE OR REPLACE VIEW warnings_of AS
SELECT date, venue, name, district, department, case_id, contacts, arrayMin(arrayMap(p -> p.1, presences)) AS first, arrayMax(arrayMap(p -> p.2, presences)) AS last
FROM (
    SELECT case_id, venue, date, department, presences, contacts, status
    FROM venue_warnings FINAL
    WHERE empty({departments:Array(String)}) OR has({departments:Array(String)}, department)
) AS newest
LEFT JOIN (SELECT code, name, district FROM venues FINAL) AS register ON register.code = newest.venue
WHERE status = 'exposed'
ORDER BY date, venue, case_id;

-- For the role department: its own venues only, whatever it asks for. The embedded engine knows the user default alone,
-- who owns everything: there the command line keeps a department to its own.
CREATE OR REPLACE VIEW department_visits_by_day DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT date, grouped, persons, check_ins
FROM visits_by_day(first = {first:UInt32}, last = {last:UInt32}, by = {by:String}, departments = (SELECT [{department:String}]))
WHERE currentUser() = 'default'
    OR {department:String} IN (SELECT department FROM department_users WHERE user = currentUser());

CREATE OR REPLACE VIEW department_exposures_by_day DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT date, grouped, persons, check_ins
FROM exposures_by_day(first = {first:UInt32}, last = {last:UInt32}, by = {by:String}, departments = (SELECT [{department:String}]))
WHERE currentUser() = 'default'
    OR {department:String} IN (SELECT department FROM department_users WHERE user = currentUser());

CREATE OR REPLACE VIEW department_warnings DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT *
FROM warnings_of(departments = (SELECT [{department:String}]))
WHERE currentUser() = 'default'
    OR {department:String} IN (SELECT department FROM department_users WHERE user = currentUser());

-- For the role analyst: no venue, no group of fewer than 10 persons, tens only. Where the groups left out of a day are
-- together fewer than 10 persons, the smallest that is left goes too: a total known from elsewhere would tell them.
CREATE OR REPLACE VIEW analyst_visits_by_day DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT date, grouped, intDiv(persons, 10) * 10 AS persons, intDiv(check_ins, 10) * 10 AS check_ins
FROM (
    SELECT
        *,
        sum(if(persons < 10, persons, 0)) OVER (PARTITION BY date) AS hidden,
        row_number() OVER (PARTITION BY date ORDER BY persons < 10, persons, grouped) AS place
    FROM visits_by_day(first = {first:UInt32}, last = {last:UInt32}, by = {by:String}, departments = [])
)
WHERE {by:String} IN ('district', 'sector', 'department') AND persons >= 10 AND NOT (hidden BETWEEN 1 AND 9 AND place = 1)
ORDER BY date, grouped;

CREATE OR REPLACE VIEW analyst_exposures_by_day DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT date, grouped, intDiv(persons, 10) * 10 AS persons, intDiv(check_ins, 10) * 10 AS check_ins
FROM (
    SELECT
        *,
        sum(if(persons < 10, persons, 0)) OVER (PARTITION BY date) AS hidden,
        row_number() OVER (PARTITION BY date ORDER BY persons < 10, persons, grouped) AS place
    FROM exposures_by_day(first = {first:UInt32}, last = {last:UInt32}, by = {by:String}, departments = [])
)
WHERE {by:String} IN ('district', 'sector', 'department') AND persons >= 10 AND NOT (hidden BETWEEN 1 AND 9 AND place = 1)
ORDER BY date, grouped;
