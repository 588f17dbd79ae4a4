-- User sessions: how many bids does a user make in each, ten seconds of silence apart?
SELECT bidder, count(*) AS bid_count, window_start AS start_time, window_end AS end_time
FROM SESSION(bid, date_time, INTERVAL '10 seconds', bidder)
GROUP BY bidder, window_start, window_end
