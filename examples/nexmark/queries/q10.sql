-- Log to file system: each bid with the day and the minute that it is filed under. In Flink the two
-- are the partitions of a file sink; here the sink is `WITH (connector = 'file')`, whose files are
-- told apart by epoch.
SELECT auction, bidder, price, date_time, extra,
    to_char(date_time, 'YYYY-MM-DD') AS dt, to_char(date_time, 'HH24:MI') AS hm
FROM bid
