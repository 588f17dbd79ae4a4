SELECT auction_bids.auction, auction_bids.num
FROM (
    SELECT auction, COUNT(*) AS num, window_start AS start_time, window_end AS end_time
    FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
    GROUP BY auction, window_start, window_end
) AS auction_bids
JOIN (
    SELECT MAX(count_bids.num) AS max_num, count_bids.start_time, count_bids.end_time
    FROM (
        SELECT COUNT(*) AS num, window_start AS start_time, window_end AS end_time
        FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
        GROUP BY auction, window_start, window_end
    ) AS count_bids
    GROUP BY count_bids.start_time, count_bids.end_time
) AS max_bids
ON auction_bids.start_time = max_bids.start_time
    AND auction_bids.end_time = max_bids.end_time
    AND auction_bids.num >= max_bids.max_num
