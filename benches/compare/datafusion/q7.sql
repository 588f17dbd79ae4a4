SELECT b.auction, b.bidder, b.price, b.date_time, b.extra
FROM bid AS b
JOIN (
    SELECT max(price) AS max_price, date_bin(INTERVAL '10 seconds', date_time) + INTERVAL '10 seconds' AS window_end
    FROM bid
    GROUP BY date_bin(INTERVAL '10 seconds', date_time)
) AS b1
ON b.price = b1.max_price
WHERE b.date_time BETWEEN b1.window_end - INTERVAL '10 seconds' AND b1.window_end
