-- The official query's windows are those of the clock, so that every run has other rows; here they are
-- those of event time, in all systems.
SELECT bidder, COUNT(*) AS bid_count, window_start AS start_time, window_end AS end_time
FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
GROUP BY bidder, window_start, window_end
