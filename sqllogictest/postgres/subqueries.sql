# Subqueries that refer to the outside.

CREATE TABLE qa (id int PRIMARY KEY, k int, s text, v int);
CREATE TABLE qc (id int PRIMARY KEY, k int, s text, w int);
INSERT INTO qa VALUES (1, 1, 'x', 5), (2, 2, 'y', 0), (3, NULL, NULL, 2), (4, 9, 'z', NULL), (5, 1, 'y', 1);
INSERT INTO qc VALUES (1, 1, 'x', 3), (2, 1, 'y', 4), (3, 2, 'y', 0), (4, NULL, NULL, 7);
SELECT id FROM qa WHERE EXISTS (SELECT count(*) FROM qc WHERE qc.k = qa.k) ORDER BY id;
SELECT id FROM qa WHERE NOT EXISTS (SELECT max(w) FROM qc WHERE qc.k = qa.k) ORDER BY id;
SELECT id FROM qa WHERE EXISTS (SELECT count(*) FROM qc WHERE qc.k = qa.k HAVING count(*) > 1) ORDER BY id;
SELECT id FROM qa WHERE 0 IN (SELECT count(*) FROM qc WHERE qc.k = qa.k) ORDER BY id;
SELECT id FROM qa WHERE 0 NOT IN (SELECT count(*) FROM qc WHERE qc.k = qa.k) ORDER BY id;
SELECT id FROM qa WHERE k NOT IN (SELECT max(k) FROM qc WHERE qc.s = qa.s) ORDER BY id;
SELECT id FROM qa WHERE k <> ALL (SELECT max(k) FROM qc WHERE qc.s = qa.s) ORDER BY id;
SELECT id FROM qa WHERE v >= ALL (SELECT count(*) FROM qc WHERE qc.k = qa.k) ORDER BY id;
SELECT id FROM qa WHERE v < ANY (SELECT count(*) FROM qc WHERE qc.k = qa.k) ORDER BY id;
SELECT id, 2 IN (SELECT count(*) FROM qc WHERE qc.k = qa.k) FROM qa ORDER BY id;
SELECT id, (SELECT count(*) FROM qc WHERE qc.k = qa.k) FROM qa ORDER BY id;
SELECT id, (SELECT sum(w) FROM qc WHERE qc.k = qa.k AND qc.s = qa.s) FROM qa ORDER BY id;
SELECT id, (SELECT count(*) FROM qc c1 JOIN qc c2 ON c1.id < c2.id AND c2.k = c1.k WHERE c1.k = qa.k) FROM qa ORDER BY id;
SELECT qa.id, l.w FROM qa, LATERAL (SELECT w FROM qc WHERE qc.k = qa.k) l ORDER BY 1, 2;
-- differs: a subquery that refers to the outside has no window functions, OFFSET, GROUPING SETS, or outer joins by what is outside.
-- postgres: id int4, t int8 | 1, 7 | 1, 7 | 2, 0 | 5, 7 | 5, 7
-- tidemill: ERROR 0A000
SELECT qa.id, l.t FROM qa, LATERAL (SELECT sum(w) OVER () AS t FROM qc WHERE qc.k = qa.k) l ORDER BY 1, 2;
-- differs: a subquery that refers to the outside has no window functions, OFFSET, GROUPING SETS, or outer joins by what is outside.
-- postgres: id int4 | 1 | 5
-- tidemill: ERROR 0A000
SELECT id FROM qa WHERE EXISTS (SELECT 1 FROM qc WHERE qc.k = qa.k OFFSET 1) ORDER BY id;
-- differs: a subquery that refers to the outside has no window functions, OFFSET, GROUPING SETS, or outer joins by what is outside.
-- postgres: id int4 | 1 | 2 | 3 | 4 | 5
-- tidemill: ERROR 0A000
SELECT id FROM qa WHERE EXISTS (SELECT qc.k FROM qc WHERE qc.k = qa.k GROUP BY GROUPING SETS ((qc.k), ())) ORDER BY id;
-- differs: a subquery that refers to the outside has no window functions, OFFSET, GROUPING SETS, or outer joins by what is outside.
-- postgres: id int4 | 1 | 2 | 5
-- tidemill: ERROR 0A000
SELECT id FROM qa WHERE EXISTS (SELECT 1 FROM qc LEFT JOIN qa a2 ON a2.id = qc.id AND a2.k = qa.k WHERE qc.k = qa.k AND a2.id IS NULL) ORDER BY id;
-- differs: a subquery cannot compare columns of one name, of two of its relations, with the outside.
-- postgres: id int4, count int8 | 1, 1 | 2, 0 | 3, 0 | 4, 0 | 5, 1
-- tidemill: ERROR 0A000
SELECT id, (SELECT count(*) FROM qc c1 JOIN qc c2 ON c1.id < c2.id WHERE c1.k = qa.k AND c2.k = qa.k) FROM qa ORDER BY id;
