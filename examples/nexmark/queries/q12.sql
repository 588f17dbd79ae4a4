-- Processing-time windows: how many bids does a user make within ten seconds of the clock? In Flink
-- `p_time` is PROCTIME(), another value at every run; here it is a column of the bids: of a table
-- `p_time TIMESTAMP DEFAULT now()`, of a source its event time or the timestamp of the record.
SELECT bidder, count(*) AS bid_count, window_start AS start_time, window_end AS end_time
FROM TUMBLE(bid, p_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end
