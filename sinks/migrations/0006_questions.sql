-- The tracer's questions as parameterised views: any client gets the answers that truyvet trace gives.
-- Times are minutes since 1970-01-01 UTC, intervals half-open, persons numbers. docs/LOOKUPS.md shows how to ask.
--
-- Presence is that of docs/DESIGN.md. Two views make it, one from the table by person, one from the table by
-- venue; everything else is made of those. Their middle parts are the same text (a test holds them equal):
--   innermost  what a (venue, hour, person) says, merged by OR: background merges may be far behind
--   marks      of one person at one venue in order, as minute * 2, + 1 for an out; what a void cancels, and an out
--              in the minute of an in, left out
--   single     a span for each mark that opens one. Starts and ends both never go back, so
--   span       those that overlap or touch are joined by looking at neighbours only
-- A minute depends on marks within 720 minutes: so much more is read on both sides, then cut away.
-- A venue without a dwell time (not yet in the register) ends the question: presence would be wrong.
-- Nested as deep as they are and without common table expressions: each mention of one is planned and executed
-- again (measured: 52 against 17 ms for a person).

-- Where persons were, each within a window of their own. asked: [(person, since, until), …], each person once.
CREATE OR REPLACE VIEW presences_of_persons AS
WITH
    tupleElement({asked:Array(Tuple(UInt64, UInt32, UInt32))}, 1) AS persons,
    tupleElement({asked:Array(Tuple(UInt64, UInt32, UInt32))}, 2) AS since_each,
    tupleElement({asked:Array(Tuple(UInt64, UInt32, UInt32))}, 3) AS until_each
SELECT person, venue, toUInt32(greatest(span.1, since)) AS start, toUInt32(least(span.2, until)) AS end
FROM (
    SELECT
        venue,
        person,
        transform(person, persons, since_each, toUInt32(0)) AS since,
        transform(person, persons, until_each, toUInt32(0)) AS until,
        arrayJoin(arrayZip(
            arrayFilter((a, before) -> a > before, single.1, arrayPushFront(arrayPopBack(single.2), -9)),
            arrayFilter((b, after) -> after > b, single.2, arrayPushBack(arrayPopFront(single.1), toInt64(9e15)))
        )) AS span
    FROM (
        SELECT
            venue,
            person,
            toInt64(dwell + throwIf(dwell = 0, 'a venue is not in the register of the archive yet')) AS stay,
            arrayFilter(s -> s.2 > 0, arrayMap(
                (at, before, after) -> multiIf(
                    at % 2 = 0,
                    (intDiv(at, 2), if(intDiv(after - at, 2) <= if(after % 2 = 1, 720, stay), intDiv(after, 2), intDiv(at, 2) + stay)),
                    intDiv(at, 2) - intDiv(before, 2) > 720,
                    (intDiv(at, 2) - stay, intDiv(at, 2)),
                    (toInt64(0), toInt64(0))
                ),
                marks,
                arrayPushFront(arrayPopBack(marks), -9999),
                arrayPushBack(arrayPopFront(marks), toInt64(9e15))
            )) AS single
        FROM (
            SELECT
                venue,
                person,
                arraySort(groupArrayArray(arrayConcat(
                    arrayMap(p -> hour * toInt64(120) + p * 2, bitPositionsToArray(bitAnd(i, bitNot(v)))),
                    arrayMap(p -> hour * toInt64(120) + p * 2 + 1, bitPositionsToArray(bitAnd(o, bitNot(bitOr(v, i)))))
                ))) AS marks
            FROM (
                SELECT venue, person, hour, groupBitOr(ins) AS i, groupBitOr(outs) AS o, groupBitOr(voids) AS v
                FROM visits_by_person
                WHERE person IN persons
                    AND hour >= intDiv(greatest(arrayMin(since_each), 720) - 720, 60)
                    AND hour <= intDiv(arrayMax(until_each) + 719, 60)
                GROUP BY venue, person, hour
            )
            GROUP BY venue, person
            HAVING notEmpty(marks)
        ) AS own
        LEFT JOIN (SELECT code, dwell FROM venues FINAL) AS register ON register.code = own.venue
    )
)
WHERE start < end;

-- Who was at places, each in an interval of its own. places: [(venue, since, until, tag), …]; a row for each
-- presence and place that meet, cut to the place's interval. The tag says for whom or what a place was asked.
CREATE OR REPLACE VIEW presences_at_places AS
SELECT place.4 AS tag, venue, person, toUInt32(greatest(span.1, place.2)) AS start, toUInt32(least(span.2, place.3)) AS end
FROM (
    SELECT
        venue,
        person,
        arrayJoin(arrayZip(
            arrayFilter((a, before) -> a > before, single.1, arrayPushFront(arrayPopBack(single.2), -9)),
            arrayFilter((b, after) -> after > b, single.2, arrayPushBack(arrayPopFront(single.1), toInt64(9e15)))
        )) AS span
    FROM (
        SELECT
            venue,
            person,
            toInt64(dwell + throwIf(dwell = 0, 'a venue is not in the register of the archive yet')) AS stay,
            arrayFilter(s -> s.2 > 0, arrayMap(
                (at, before, after) -> multiIf(
                    at % 2 = 0,
                    (intDiv(at, 2), if(intDiv(after - at, 2) <= if(after % 2 = 1, 720, stay), intDiv(after, 2), intDiv(at, 2) + stay)),
                    intDiv(at, 2) - intDiv(before, 2) > 720,
                    (intDiv(at, 2) - stay, intDiv(at, 2)),
                    (toInt64(0), toInt64(0))
                ),
                marks,
                arrayPushFront(arrayPopBack(marks), -9999),
                arrayPushBack(arrayPopFront(marks), toInt64(9e15))
            )) AS single
        FROM (
            SELECT
                venue,
                person,
                arraySort(groupArrayArray(arrayConcat(
                    arrayMap(p -> hour * toInt64(120) + p * 2, bitPositionsToArray(bitAnd(i, bitNot(v)))),
                    arrayMap(p -> hour * toInt64(120) + p * 2 + 1, bitPositionsToArray(bitAnd(o, bitNot(bitOr(v, i)))))
                ))) AS marks
            FROM (
                SELECT venue, person, hour, groupBitOr(ins) AS i, groupBitOr(outs) AS o, groupBitOr(voids) AS v
                FROM visits
                WHERE (venue, hour) IN (
                    SELECT
                        each.1,
                        arrayJoin(range(toUInt32(intDiv(greatest(each.2, 720) - 720, 60)), toUInt32(intDiv(each.3 + 719, 60) + 1)))
                    FROM (SELECT arrayJoin({places:Array(Tuple(String, UInt32, UInt32, UInt64))}) AS each)
                )
                GROUP BY venue, person, hour
            )
            GROUP BY venue, person
            HAVING notEmpty(marks)
        ) AS own
        LEFT JOIN (SELECT code, dwell FROM venues FINAL) AS register ON register.code = own.venue
    )
) AS there
INNER JOIN (
    SELECT arrayJoin({places:Array(Tuple(String, UInt32, UInt32, UInt64))}) AS place, place.1 AS code
) AS asked ON asked.code = there.venue
WHERE span.1 < place.3 AND span.2 > place.2;

-- Who was at places at those times, a row for each local date, by the rule of an exposure: the overlap is split at
-- local midnight, and a date counts when its sum or one unsplit overlap that meets it reaches min_overlap. places as
-- above, the tag is the person for whom it was asked: nobody is a contact of themselves.
CREATE OR REPLACE VIEW contacts_at_places AS
SELECT
    tag AS source,
    person,
    venue,
    toDate32(day) AS date,
    toUInt32(sum(least(end, (day + 1) * 1440 - 420) - greatest(start, day * 1440 - 420))) AS minutes,
    toUInt32(min(greatest(start, day * 1440 - 420))) AS first,
    toUInt32(max(least(end, (day + 1) * 1440 - 420))) AS last
FROM (
    SELECT *, toInt32(arrayJoin(range(intDiv(start + 420, 1440), intDiv(end + 419, 1440) + 1))) AS day
    FROM presences_at_places(places = {places:Array(Tuple(String, UInt32, UInt32, UInt64))})
    WHERE person != tag
)
GROUP BY tag, person, venue, day
HAVING minutes >= {min_overlap:UInt16} OR max(end - start) >= {min_overlap:UInt16};

-- Who was where these persons were at the same time (asked as in presences_of_persons).
-- linger: minutes that a place stays infectious after the asked person left.
CREATE OR REPLACE VIEW contacts_of_persons AS
SELECT *
FROM contacts_at_places(
    min_overlap = {min_overlap:UInt16},
    places = (
        SELECT groupArray((toString(venue), toUInt32(span.1), toUInt32(span.2), person))
        FROM (
            SELECT
                person,
                venue,
                arrayJoin(arrayZip(
                    arrayFilter((a, before) -> a > before, single.1, arrayPushFront(arrayPopBack(single.2), -9)),
                    arrayFilter((b, after) -> after > b, single.2, arrayPushBack(arrayPopFront(single.1), toInt64(9e15)))
                )) AS span
            FROM (
                SELECT person, venue, arraySort(groupArray((toInt64(start), toInt64(end + {linger:UInt16})))) AS single
                FROM presences_of_persons(asked = {asked:Array(Tuple(UInt64, UInt32, UInt32))})
                GROUP BY person, venue
            )
        )
    )
);

-- Where several persons were within [since, until), most likely places to have met first. together: how many of them
-- were there at the same time as another; minutes: of all pairs.
CREATE OR REPLACE VIEW common_venues AS
SELECT
    venue,
    uniqExact(me.3) AS persons,
    uniqExactIf(me.3, notEmpty(others)) AS together,
    intDiv(sum(arraySum(o -> least(me.2, o.2) - greatest(me.1, o.1), others)), 2) AS minutes,
    minIf(me.1, notEmpty(others)) AS first,
    maxIf(me.2, notEmpty(others)) AS last
FROM (
    SELECT venue, me, arrayFilter(o -> o.3 != me.3 AND o.1 < me.2 AND o.2 > me.1, everyone) AS others
    FROM (
        SELECT venue, everyone, arrayJoin(everyone) AS me
        FROM (
            SELECT venue, groupArray((start, end, person)) AS everyone
            FROM presences_of_persons(
                asked = (SELECT arrayMap(p -> (p, {since:UInt32}, {until:UInt32}), arrayDistinct({persons:Array(UInt64)})))
            )
            GROUP BY venue
        )
    )
)
GROUP BY venue
HAVING persons > 1
ORDER BY together DESC, minutes DESC, persons DESC, venue;

-- How full a venue was by clock hour (hours since 1970-01-01 UTC), empty hours left out. visitors: persons in it;
-- peak: most at once; check_ins: marks within [since, until).
CREATE OR REPLACE VIEW occupancy_of_venue AS
SELECT
    hours.hour AS hour,
    visitors,
    peak,
    check_ins,
    (SELECT any(capacity) FROM venues FINAL WHERE code = {venue:String}) AS capacity,
    ifNull(peak > capacity, false) AS exceeded
FROM (
    SELECT toUInt32(intDiv(minute, 60)) AS hour, uniqExactArray(seen) AS visitors, toUInt32(max(present)) AS peak
    FROM (
        SELECT minute, seen, sum(change) OVER (ORDER BY minute) AS present
        FROM (
            SELECT step.1 AS minute, sum(step.2) AS change, groupUniqArrayIf(person, step.3) AS seen
            FROM (
                SELECT
                    person,
                    arrayJoin(arrayPushBack(
                        arrayMap(
                            h -> (greatest(start, h * 60), if(h = intDiv(start, 60), 1, 0), true),
                            range(intDiv(start, 60), intDiv(end + 59, 60))
                        ),
                        (toUInt64(end), -1, false)
                    )) AS step
                FROM presences_at_places(places = (SELECT [({venue:String}, {since:UInt32}, {until:UInt32}, toUInt64(0))]))
            )
            GROUP BY minute
        )
    )
    GROUP BY hour
    HAVING visitors > 0
) AS hours
LEFT JOIN (
    SELECT hour, sum(arrayCount(p -> hour * 60 + p >= {since:UInt32} AND hour * 60 + p < {until:UInt32}, bitPositionsToArray(i))) AS check_ins
    FROM (
        SELECT hour, person, bitAnd(groupBitOr(ins), bitNot(groupBitOr(voids))) AS i
        FROM visits
        WHERE venue = {venue:String} AND hour >= intDiv({since:UInt32}, 60) AND hour <= intDiv({until:UInt32}, 60)
        GROUP BY hour, person
    )
    GROUP BY hour
) AS entered ON entered.hour = hours.hour
ORDER BY hour;

-- Who was at any of a list of place-times, or at a venue below one of them. place: its number in the list, from 0.
CREATE OR REPLACE VIEW people_at_places AS
SELECT tag AS place, venue, person, start, end
FROM presences_at_places(places = (
    WITH RECURSIVE below AS (
        SELECT each.1 AS code, each.2 AS since, each.3 AS until, tag, 0 AS depth
        FROM (
            SELECT arrayJoin(arrayZip(
                {places:Array(Tuple(String, UInt32, UInt32))}, range(length({places:Array(Tuple(String, UInt32, UInt32))}))
            )) AS numbered, numbered.1 AS each, numbered.2 AS tag
        )
        UNION ALL
        SELECT inner_venue.code, since, until, tag, depth + 1
        FROM (SELECT code, parent FROM venues FINAL WHERE parent != '') AS inner_venue
        INNER JOIN below ON inner_venue.parent = below.code
        WHERE depth < 8
    )
    SELECT groupArray((code, since, until, toUInt64(tag))) FROM below
));

-- F1, F2 and F3 of a person: edges go forward in time, from each one's own exposure on, up to the isolation that is
-- given ([(person, from), …]) or `until`. An edge stands once, at the smallest degree at which its person is reached.
CREATE OR REPLACE VIEW chain_of_person AS
WITH
    f1 AS (
        SELECT 1 AS degree, *
        FROM contacts_of_persons(
            asked = [({person:UInt64}, {since:UInt32}, {until:UInt32})], linger = 0, min_overlap = {min_overlap:UInt16}
        )
    ),
    f2 AS (
        SELECT 2 AS degree, *
        FROM contacts_of_persons(
            linger = 0,
            min_overlap = {min_overlap:UInt16},
            asked = (
                SELECT groupArray((person, exposed, isolated))
                FROM (
                    SELECT
                        person,
                        min(first) AS exposed,
                        least({now:UInt32}, transform(person, tupleElement({isolated:Array(Tuple(UInt64, UInt32))}, 1), tupleElement({isolated:Array(Tuple(UInt64, UInt32))}, 2), {now:UInt32})) AS isolated
                    FROM f1
                    GROUP BY person
                    HAVING exposed < isolated
                )
            )
        )
        WHERE person != {person:UInt64}
    ),
    f3 AS (
        SELECT 3 AS degree, *
        FROM contacts_of_persons(
            linger = 0,
            min_overlap = {min_overlap:UInt16},
            asked = (
                SELECT groupArray((person, exposed, isolated))
                FROM (
                    SELECT
                        person,
                        min(first) AS exposed,
                        least({now:UInt32}, transform(person, tupleElement({isolated:Array(Tuple(UInt64, UInt32))}, 1), tupleElement({isolated:Array(Tuple(UInt64, UInt32))}, 2), {now:UInt32})) AS isolated
                    FROM f2
                    GROUP BY person
                    HAVING exposed < isolated
                )
            )
        )
        WHERE person != {person:UInt64}
    )
SELECT degree, source, person, venue, date, minutes, first, last
FROM (
    SELECT *, min(degree) OVER (PARTITION BY person) AS smallest
    FROM (SELECT * FROM f1 UNION ALL SELECT * FROM f2 UNION ALL SELECT * FROM f3)
)
WHERE degree = smallest;
