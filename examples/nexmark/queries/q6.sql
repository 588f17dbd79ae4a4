-- Average selling price by seller: of the last ten auctions before each and itself. Flink cannot run
-- it: the winning bid of an auction changes, and its OVER takes no retractions.
SELECT q.seller, avg(q.price) OVER (
    PARTITION BY q.seller ORDER BY q.date_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW
) AS avg_price
FROM (
    SELECT *, row_number() OVER (PARTITION BY w.id, w.seller ORDER BY w.price DESC) AS rownum
    FROM (
        SELECT a.id, a.seller, b.price, b.date_time
        FROM auction AS a, bid AS b
        WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    ) AS w
) AS q
WHERE q.rownum <= 1
