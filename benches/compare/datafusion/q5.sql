SELECT auction_bids.auction, auction_bids.num
FROM (
    SELECT auction, count(*) AS num, date_bin(INTERVAL '2 seconds', date_time) - hop AS start_time
    FROM bid CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'), (INTERVAL '4 seconds'),
        (INTERVAL '6 seconds'), (INTERVAL '8 seconds')) AS hops (hop)
    GROUP BY auction, date_bin(INTERVAL '2 seconds', date_time) - hop
) AS auction_bids
JOIN (
    SELECT max(count_bids.num) AS max_num, count_bids.start_time
    FROM (
        SELECT count(*) AS num, date_bin(INTERVAL '2 seconds', date_time) - hop AS start_time
        FROM bid CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'), (INTERVAL '4 seconds'),
            (INTERVAL '6 seconds'), (INTERVAL '8 seconds')) AS hops (hop)
        GROUP BY auction, date_bin(INTERVAL '2 seconds', date_time) - hop
    ) AS count_bids
    GROUP BY count_bids.start_time
) AS max_bids
ON auction_bids.start_time = max_bids.start_time AND auction_bids.num >= max_bids.max_num
