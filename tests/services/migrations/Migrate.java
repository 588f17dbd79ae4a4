import org.flywaydb.core.Flyway;

/** Flyway's own API, as its command line calls it. */
public class Migrate {
    public static void main(String[] args) {
        Flyway flyway = Flyway.configure()
            .dataSource(args[0], args[1], "")
            .locations("filesystem:" + args[2])
            .load();
        switch (args[3]) {
            case "migrate" -> System.out.println("applied " + flyway.migrate().migrationsExecuted);
            case "validate" -> flyway.validate();
            case "info" -> {
                for (var info : flyway.info().all()) {
                    System.out.println(info.getVersion() + " " + info.getState());
                }
            }
            default -> throw new IllegalArgumentException(args[3]);
        }
    }
}
