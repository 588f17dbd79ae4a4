import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableDescriptor;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Takes requests on its standard input, one a line, and answers each with one line:
 *
 * <pre>
 * RUN tables.sql query.sql     JOB id: the query runs on the cluster, and its rows go nowhere
 * COUNT tables.sql query.sql   ROWS n: how many rows the query's result has in the end
 * </pre>
 *
 * or ERROR with a reason. One process for all jobs, so that a plan does not wait for a Java machine to start.
 */
public class Submit {
    private static final String[][] SETTINGS = {
        {"table.exec.mini-batch.enabled", "true"},
        {"table.exec.mini-batch.allow-latency", "2s"},
        {"table.exec.mini-batch.size", "50000"},
        {"table.optimizer.distinct-agg.split.enabled", "true"},
    };

    public static void main(String[] args) throws Exception {
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = requests.readLine()) != null; ) {
            String answer;
            try {
                answer = answer(line.split("\t"), args[0], args[1]);
            } catch (Throwable error) {
                Throwable cause = error;
                while (cause.getCause() != null) {
                    cause = cause.getCause();
                }
                answer = "ERROR " + cause.toString().replace('\n', ' ');
            }
            System.out.println(answer);
            System.out.flush();
        }
    }

    private static String answer(String[] request, String host, String port) throws Exception {
        Configuration cluster = new Configuration();
        cluster.setString("execution.target", "remote");
        cluster.setString("rest.address", host);
        cluster.setString("rest.port", port);
        TableEnvironment tables = TableEnvironment.create(
            EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(cluster).build());
        for (String[] setting : SETTINGS) {
            tables.getConfig().set(setting[0], setting[1]);
        }
        for (String statement : read(request[1]).split(";\\s*\\n")) {
            if (!statement.isBlank()) {
                tables.executeSql(statement);
            }
        }
        String query = read(request[2]);
        if (request[0].equals("COUNT")) {
            return "ROWS " + last(tables.executeSql("SELECT COUNT(*) FROM (" + query + ")"));
        }
        TableDescriptor nowhere = TableDescriptor.forConnector("blackhole").build();
        TableResult running = tables.sqlQuery(query).insertInto(nowhere).execute();
        return "JOB " + running.getJobClient().orElseThrow().getJobID();
    }

    /** What a changelog of one row comes to. */
    private static long last(TableResult result) throws Exception {
        long count = 0;
        try (CloseableIterator<Row> rows = result.collect()) {
            while (rows.hasNext()) {
                Row row = rows.next();
                switch (row.getKind()) {
                    case INSERT, UPDATE_AFTER -> count = (Long) row.getField(0);
                    default -> { }
                }
            }
        }
        return count;
    }

    private static String read(String path) throws Exception {
        List<String> lines = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(path))) {
            if (!line.startsWith("--")) {
                lines.add(line);
            }
        }
        return String.join("\n", lines);
    }
}
