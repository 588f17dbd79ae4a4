SELECT p.id, p.name, p.start_time
FROM (
    SELECT id, name, date_bin(INTERVAL '10 seconds', date_time) AS start_time
    FROM person
    GROUP BY id, name, date_bin(INTERVAL '10 seconds', date_time)
) AS p
JOIN (
    SELECT seller, date_bin(INTERVAL '10 seconds', date_time) AS start_time
    FROM auction
    GROUP BY seller, date_bin(INTERVAL '10 seconds', date_time)
) AS a
ON p.id = a.seller AND p.start_time = a.start_time
