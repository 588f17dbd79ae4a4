// pgjdbc: DatabaseMetaData, and statements as BI tools and frameworks send them.
//
// Run as a single file: java -cp postgresql.jar DrivePgjdbc.java

import java.io.StringReader;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class DrivePgjdbc {
    interface Body {
        Object run(Connection connection) throws Exception;
    }

    interface Listing {
        ResultSet of(DatabaseMetaData data) throws SQLException;
    }

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        for (int i = 0; i < options.length; i += 2) properties.setProperty(options[i], options[i + 1]);
        return DriverManager.getConnection(
            "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
    }

    static void check(String name, Body body, String... options) {
        StringBuilder line = new StringBuilder("{\"check\": " + quoted(name) + ", ");
        try (Connection connection = connect(options)) {
            line.append("\"saw\": ").append(quoted(String.valueOf(body.run(connection))));
        } catch (Throwable error) {
            String state = error instanceof SQLException ? ((SQLException) error).getSQLState() + ": " : error.getClass().getSimpleName() + ": ";
            line.append("\"failed\": ").append(quoted(state + String.valueOf(error.getMessage()).replaceAll("\\s+", " ")));
        }
        System.out.println(line.append("}"));
    }

    static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < ' ') out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append('"').toString();
    }

    /** Titles, types and rows. */
    static String shown(ResultSet rows) throws SQLException {
        ResultSetMetaData data = rows.getMetaData();
        List<String> lines = new ArrayList<>();
        StringBuilder titles = new StringBuilder();
        for (int i = 1; i <= data.getColumnCount(); i++) {
            titles.append(data.getColumnLabel(i)).append(' ').append(data.getColumnTypeName(i)).append(' ').append(data.getColumnType(i))
                .append(' ').append(data.getColumnClassName(i)).append("; ");
        }
        while (rows.next()) {
            StringBuilder line = new StringBuilder();
            for (int i = 1; i <= data.getColumnCount(); i++) {
                line.append(plain(rows.getObject(i))).append(" | ");
            }
            lines.add(line.toString());
        }
        return titles + "\n" + String.join("\n", lines);
    }

    /** A value as text; numbers may be shown with more zeros behind the point. */
    static String plain(Object value) throws SQLException {
        if (value instanceof byte[]) return Arrays.toString((byte[]) value);
        if (value instanceof BigDecimal) return ((BigDecimal) value).stripTrailingZeros().toPlainString();
        if (value instanceof java.sql.Array) {
            List<String> items = new ArrayList<>();
            for (Object item : (Object[]) ((java.sql.Array) value).getArray()) items.add(plain(item));
            return items.toString();
        }
        return String.valueOf(value);
    }

    /** The titles alone, and whether there are rows. */
    static String titles(ResultSet rows) throws SQLException {
        ResultSetMetaData data = rows.getMetaData();
        StringBuilder titles = new StringBuilder();
        for (int i = 1; i <= data.getColumnCount(); i++) titles.append(data.getColumnLabel(i)).append(' ').append(data.getColumnType(i)).append("; ");
        boolean some = rows.next();
        while (rows.next()) { /* to the end, where errors show */ }
        return titles + (some ? "some" : "none");
    }

    static void same(String name, Listing listing) {
        check("DatabaseMetaData." + name, connection -> shown(listing.of(connection.getMetaData())));
    }

    static void listed(String name, Listing listing) {
        check("DatabaseMetaData." + name, connection -> titles(listing.of(connection.getMetaData())));
    }

    static ResultSet query(Connection connection, String sql) throws SQLException {
        return connection.createStatement().executeQuery(sql);
    }

    static PreparedStatement prepared(Connection connection, String sql, Object... values) throws SQLException {
        PreparedStatement statement = connection.prepareStatement(sql);
        for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
        return statement;
    }

    public static void main(String[] args) throws Exception {
        System.out.println("{\"client\": \"pgjdbc " + org.postgresql.util.DriverInfo.DRIVER_VERSION + "\"}");

        same("getTables", data -> data.getTables(null, "public", "%", new String[] {"TABLE", "VIEW", "MATERIALIZED VIEW"}));
        same("getColumns", data -> data.getColumns(null, "public", "orders", "%"));
        same("getColumns of a view", data -> data.getColumns(null, "public", "big_orders", "%"));
        same("getPrimaryKeys", data -> data.getPrimaryKeys(null, "public", "orders"));
        same("getPrimaryKeys of two columns", data -> data.getPrimaryKeys(null, "public", "lines"));
        same("getImportedKeys", data -> data.getImportedKeys(null, "public", "orders"));
        same("getExportedKeys", data -> data.getExportedKeys(null, "public", "orders"));
        same("getCrossReference", data -> data.getCrossReference(null, "public", "orders", null, "public", "lines"));
        same("getBestRowIdentifier", data -> data.getBestRowIdentifier(null, "public", "orders", DatabaseMetaData.bestRowSession, false));
        same("getTableTypes", DatabaseMetaData::getTableTypes);
        same("getUDTs", data -> data.getUDTs(null, "public", "%", null));
        same("getClientInfoProperties", DatabaseMetaData::getClientInfoProperties);
        same("getColumnPrivileges of nothing", data -> data.getColumnPrivileges(null, "public", "nothing", "%"));
        listed("getIndexInfo", data -> data.getIndexInfo(null, "public", "orders", false, false));
        listed("getVersionColumns", data -> data.getVersionColumns(null, "public", "orders"));
        listed("getTypeInfo", DatabaseMetaData::getTypeInfo);
        listed("getSchemas", DatabaseMetaData::getSchemas);
        listed("getCatalogs", DatabaseMetaData::getCatalogs);
        listed("getFunctions", data -> data.getFunctions(null, "pg_catalog", "a%"));
        listed("getFunctionColumns", data -> data.getFunctionColumns(null, "pg_catalog", "abs", "%"));
        listed("getProcedures", data -> data.getProcedures(null, "pg_catalog", "%"));
        listed("getProcedureColumns", data -> data.getProcedureColumns(null, "pg_catalog", "nothing%", "%"));
        listed("getTablePrivileges", data -> data.getTablePrivileges(null, "public", "orders"));
        listed("getColumnPrivileges", data -> data.getColumnPrivileges(null, "public", "orders", "%"));
        listed("getTables of all schemas", data -> data.getTables(null, null, "%", null));
        check("DatabaseMetaData, its constants", connection -> {
            DatabaseMetaData data = connection.getMetaData();
            return data.getDatabaseProductName() + (data.getDatabaseMajorVersion() >= 15) + data.getIdentifierQuoteString()
                + data.supportsTransactions() + data.getMaxColumnNameLength() + data.getMaxIndexLength() + data.getSQLKeywords().contains("abort")
                + data.getDefaultTransactionIsolation() + data.getUserName();
        });

        String[] values = {
            "numbers", "1::int2, -2::int4, 9007199254740993::int8, 1.5::float4, -0.1::float8, 12.34::numeric(10, 2), true, false",
            "text", "'x'::text, 'yy'::varchar(5), 'z'::char(3), '\\x00ff'::bytea, ''::text, 'n'::name",
            "times", "date '2024-02-29', time '12:34:56', timestamp '2024-02-29 12:34:56.789012', timestamptz '2024-02-29 12:34:56+02', interval '1 day 2 hours'",
            "uuid, json", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '{\"a\": [1, null]}'::json, '{\"b\": 1.5}'::jsonb",
            "nulls", "NULL::int4, NULL::text, NULL::timestamptz, NULL",
            "arrays", "ARRAY[1, 2, NULL]::int4[], ARRAY['a', 'b\"c', NULL]::text[], ARRAY[1.5, 2.25]::numeric[], '{}'::int8[], ARRAY[true, false]",
        };
        for (int i = 0; i < values.length; i += 2) {
            String sql = "SELECT " + values[i + 1];
            check("types: " + values[i], connection -> shown(query(connection, sql)));
            // From the first run on, what can be is in binary.
            check("types in binary: " + values[i], connection -> shown(prepared(connection, sql).executeQuery()), "prepareThreshold", "-1");
        }
        check("select", connection -> shown(query(connection, "SELECT * FROM orders ORDER BY id")));
        check("simple protocol", connection -> shown(prepared(connection, "SELECT id, customer, ? FROM orders WHERE id = ?", "x", 1).executeQuery()),
            "preferQueryMode", "simple");
        check("parameters", connection -> {
            PreparedStatement statement = prepared(connection,
                "SELECT id FROM orders WHERE id = ANY(?) AND customer = ? AND amount > ? AND ts > ? AND tz < ? AND d <= ? LIMIT ?",
                connection.createArrayOf("int4", new Integer[] {1, 2, 3}), "ann", new BigDecimal("51.5"), Timestamp.valueOf("2025-01-01 00:00:00"),
                OffsetDateTime.parse("2027-01-01T00:00:00Z"), LocalDate.of(2026, 1, 1), 5);
            return shown(statement.executeQuery());
        });
        check("parameters of all types", connection -> shown(prepared(connection, "SELECT ?::int2, ?::int8, ?::float8, ?::numeric, ?::text, ?::bytea, ?::bool, ?::uuid, ?::date",
            1, 1L << 40, 1.5, new BigDecimal("1.25"), "x", new byte[] {0, -1}, true, new UUID(0, 7), LocalDate.of(2024, 2, 29)).executeQuery()));
        check("parameters that are NULL", connection -> {
            PreparedStatement statement = connection.prepareStatement("SELECT ?::int + 1, coalesce(?, 'none'), ?::timestamptz");
            statement.setNull(1, Types.INTEGER);
            statement.setNull(2, Types.VARCHAR);
            statement.setNull(3, Types.TIMESTAMP);
            return shown(statement.executeQuery());
        });
        check("types of parameters", connection -> {
            PreparedStatement statement = connection.prepareStatement("INSERT INTO orders (id, customer, amount, tz, tags) VALUES (?, ?, ?, ?, ?)");
            List<String> types = new ArrayList<>();
            for (int i = 1; i <= statement.getParameterMetaData().getParameterCount(); i++) types.add(statement.getParameterMetaData().getParameterTypeName(i));
            return types;
        });
        check("ResultSetMetaData", connection -> {
            ResultSetMetaData data = connection.prepareStatement("SELECT id, customer AS who, amount, count(*) OVER () FROM orders").getMetaData();
            List<String> seen = new ArrayList<>();
            for (int i = 1; i <= data.getColumnCount(); i++) {
                seen.add(data.getColumnName(i) + " " + data.getTableName(i) + " " + data.isNullable(i) + " " + data.isAutoIncrement(i) + " "
                    + data.getPrecision(i) + " " + data.getScale(i) + " " + ((org.postgresql.PGResultSetMetaData) data).getBaseColumnName(i));
            }
            return seen;
        });
        check("prepared on the server", connection -> {
            List<String> seen = new ArrayList<>();
            PreparedStatement statement = connection.prepareStatement("SELECT customer FROM orders WHERE id = ?");
            for (int i = 1; i <= 7; i++) {
                statement.setInt(1, i);
                seen.add(shown(statement.executeQuery()));
            }
            return seen;
        }, "prepareThreshold", "3");
        check("fetch size", connection -> {
            connection.setAutoCommit(false);
            Statement statement = connection.createStatement();
            statement.setFetchSize(7);
            ResultSet rows = statement.executeQuery("SELECT g FROM generate_series(1, 100) AS g");
            long sum = 0;
            while (rows.next()) sum += rows.getInt(1);
            connection.commit();
            return sum;
        });
        check("changes, batches and generated keys", connection -> {
            List<Object> seen = new ArrayList<>();
            Statement statement = connection.createStatement();
            seen.add(statement.executeUpdate("CREATE TABLE jd (a INT PRIMARY KEY, b TEXT)"));
            seen.add(statement.executeUpdate("INSERT INTO jd VALUES (1, 'x'), (2, 'y')"));
            seen.add(statement.executeUpdate("UPDATE jd SET b = 'z'"));
            PreparedStatement insert = connection.prepareStatement("INSERT INTO jd VALUES (?, ?)", Statement.RETURN_GENERATED_KEYS);
            for (int i = 10; i < 13; i++) {
                insert.setInt(1, i);
                insert.setString(2, "b" + i);
                insert.addBatch();
            }
            seen.add(Arrays.toString(insert.executeBatch()));
            seen.add(shown(insert.getGeneratedKeys()));
            seen.add(statement.executeUpdate("DELETE FROM jd WHERE a = 1"));
            seen.add(statement.executeUpdate("DROP TABLE jd"));
            return seen;
        });
        check("rewritten batches", connection -> {
            Statement statement = connection.createStatement();
            statement.executeUpdate("CREATE TABLE jb (a INT PRIMARY KEY, b TEXT)");
            PreparedStatement insert = connection.prepareStatement("INSERT INTO jb VALUES (?, ?)");
            for (int i = 0; i < 20; i++) {
                insert.setInt(1, i);
                insert.setString(2, null);
                insert.addBatch();
            }
            int n = insert.executeBatch().length;
            String seen = n + shown(query(connection, "SELECT count(*) FROM jb"));
            statement.executeUpdate("DROP TABLE jb");
            return seen;
        }, "reWriteBatchedInserts", "true");
        check("updatable rows", connection -> {
            connection.setAutoCommit(false);
            ResultSet rows = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)
                .executeQuery("SELECT id, customer FROM orders WHERE id = 3");
            rows.next();
            rows.updateString(2, "changed");
            rows.updateRow();
            String seen = shown(query(connection, "SELECT customer FROM orders WHERE id = 3"));
            connection.rollback();
            return seen + shown(query(connection, "SELECT customer FROM orders WHERE id = 3"));
        });
        check("savepoints", connection -> {
            connection.setAutoCommit(false);
            Statement statement = connection.createStatement();
            statement.executeUpdate("INSERT INTO lines VALUES (3, 1, 'x', 1)");
            Savepoint savepoint = connection.setSavepoint();
            statement.executeUpdate("INSERT INTO lines VALUES (3, 2, 'y', 1)");
            connection.rollback(savepoint);
            String seen = shown(query(connection, "SELECT line FROM lines WHERE order_id = 3"));
            connection.rollback();
            return seen + shown(query(connection, "SELECT count(*) FROM lines WHERE order_id = 3"));
        });
        check("savepoint before each statement", connection -> {
            connection.setAutoCommit(false);
            Statement statement = connection.createStatement();
            try {
                statement.executeQuery("SELECT 1/0");
            } catch (SQLException error) {
                return error.getSQLState() + shown(query(connection, "SELECT 1"));
            }
            return "no error";
        }, "autosave", "always");
        check("isolation and read only", connection -> {
            connection.setReadOnly(true);
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            connection.setAutoCommit(false);
            String seen = shown(query(connection, "SHOW TRANSACTION ISOLATION LEVEL")) + connection.getTransactionIsolation();
            connection.rollback();
            return seen;
        });
        check("errors", connection -> {
            List<String> seen = new ArrayList<>();
            for (String sql : new String[] {"SELECT * FROM nothing", "SELECT nothing FROM orders", "SELECT 1/0", "SELECT 'x'::int",
                "INSERT INTO orders VALUES (1, 'twice')", "SELEC 1"}) {
                try {
                    connection.createStatement().execute(sql);
                    seen.add("no error");
                } catch (SQLException error) {
                    seen.add(error.getSQLState());
                }
            }
            return seen;
        });
        check("query timeout", connection -> {
            Statement statement = connection.createStatement();
            statement.setQueryTimeout(1);
            try {
                statement.executeQuery("SELECT pg_sleep(20)");
                return "ran to its end";
            } catch (SQLException error) {
                return error.getSQLState();
            }
        });
        check("COPY", connection -> {
            connection.createStatement().executeUpdate("CREATE TABLE jc (a INT PRIMARY KEY, b TEXT)");
            CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
            long n = manager.copyIn("COPY jc FROM STDIN (FORMAT csv)", new StringReader("1,x\n2,\n"));
            java.io.StringWriter out = new java.io.StringWriter();
            manager.copyOut("COPY (SELECT * FROM jc ORDER BY a) TO STDOUT", out);
            connection.createStatement().executeUpdate("DROP TABLE jc");
            return n + out.toString();
        });
        check("functions by escape", connection -> shown(query(connection,
            "SELECT {fn concat('a', 'b')}, {fn year({d '2024-02-29'})}, {ts '2024-02-29 12:00:00'}, {fn ucase('x')}")));
        check("schema and client information", connection -> {
            connection.setSchema("public");
            connection.setClientInfo("ApplicationName", "checks");
            return connection.getSchema() + connection.getCatalog() + connection.getClientInfo("ApplicationName")
                + shown(query(connection, "SHOW application_name")) + connection.isValid(5);
        });
        System.exit(0);
    }
}
