SELECT bidder, count(*) AS bid_count, min(date_time) AS start_time, max(date_time) + INTERVAL '10 seconds' AS end_time
FROM (
    SELECT bidder, date_time, sum(opens) OVER (
        PARTITION BY bidder ORDER BY date_time ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS session
    FROM (
        SELECT bidder, date_time, CASE
            WHEN lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) + INTERVAL '10 seconds' >= date_time THEN 0
            ELSE 1
        END AS opens
        FROM bid
    ) AS b
) AS b
GROUP BY bidder, session
