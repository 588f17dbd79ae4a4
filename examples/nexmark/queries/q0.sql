-- Pass through: what the framework costs.
SELECT auction, bidder, price, date_time, extra
FROM bid
