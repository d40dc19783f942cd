import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.util.JSONObjectUtils;
import com.nimbusds.jwt.SignedJWT;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * A service that verifies every token it is handed at once, and again and again until it expires.
 *
 * <p>{@code java Verifier ISSUER AUDIENCE KEY_SET_URL [CACHE_SECONDS]}
 *
 * <p>Standard input: a line {"token"} each. Standard output: a line {"event":"refusal",...} each, and
 * {"event":"summary",...} when the input has ended and the last token has expired.
 */
public final class Verifier {
    /** Milliseconds between two looks at the same token. */
    private static final long PASS = 2_000;
    /** Milliseconds before its expiry from which a token is left alone, so that a slow machine makes no refusal. */
    private static final long MARGIN = 1_000;
    /** What the queue holds when the input has ended. */
    private static final String END = "";

    private static final class Entry {
        final String token;
        final String kid;
        final JWSAlgorithm alg;
        final long issuedAt;
        final long expiresAt;
        boolean refused;

        Entry(String token) throws Exception {
            var parsed = SignedJWT.parse(token);
            this.token = token;
            kid = parsed.getHeader().getKeyID();
            alg = parsed.getHeader().getAlgorithm();
            issuedAt = parsed.getJWTClaimsSet().getIssueTime().getTime();
            expiresAt = parsed.getJWTClaimsSet().getExpirationTime().getTime();
        }

        boolean isLive() {
            return System.currentTimeMillis() < expiresAt - MARGIN;
        }
    }

    private final Keys keys;
    private final List<Entry> live = new ArrayList<>();
    private long lag;
    private long maxLag;
    private int tokens;
    private int refusedTokens;
    private int verifications;
    private int refusals;
    private int late;

    private Verifier(Keys keys) {
        this.keys = keys;
    }

    private void take(String token) throws Exception {
        var entry = new Entry(token);
        tokens++;
        live.add(entry);
        check(entry);
    }

    private void check(Entry entry) {
        if (!entry.isLive()) {
            return;
        }
        var age = System.currentTimeMillis() - entry.issuedAt;
        verifications++;
        try {
            keys.verify(entry.token);
        } catch (Exception error) {
            note(entry, age, error);
        }
    }

    private void note(Entry entry, long age, Exception error) {
        // The machine stood still for longer than the margin.
        if (System.currentTimeMillis() >= entry.expiresAt) {
            late++;
            return;
        }
        refusals++;
        refusedTokens += entry.refused ? 0 : 1;
        entry.refused = true;
        var line = line("refusal");
        line.put("kid", entry.kid);
        line.put("alg", entry.alg.getName());
        line.put("age", age / 1_000.0);
        line.put("lag_ms", lag);
        line.put("error", error.getClass().getSimpleName() + ": " + error.getMessage());
        say(line);
    }

    private void lookAgain(long planned) {
        lag = Math.max(0, now() - planned);
        maxLag = Math.max(maxLag, lag);
        live.removeIf(entry -> !entry.isLive());
        live.forEach(this::check);
    }

    private Map<String, Object> summary() throws Exception {
        var line = line("summary");
        line.put("version", version());
        line.put("tokens", tokens);
        line.put("refused_tokens", refusedTokens);
        line.put("verifications", verifications);
        line.put("refusals", refusals);
        line.put("late", late);
        line.put("max_lag_ms", maxLag);
        return line;
    }

    private static Map<String, Object> line(String event) {
        var line = new LinkedHashMap<String, Object>();
        line.put("event", event);
        return line;
    }

    private static void say(Map<String, Object> line) {
        System.out.println(JSONObjectUtils.toJSONString(line));
    }

    /** Milliseconds of a clock that nobody sets. */
    private static long now() {
        return System.nanoTime() / 1_000_000;
    }

    private static String version() throws Exception {
        var properties = new Properties();
        var path = "/META-INF/maven/com.nimbusds/nimbus-jose-jwt/pom.properties";
        try (var file = SignedJWT.class.getResourceAsStream(path)) {
            properties.load(file);
        }
        return properties.getProperty("version");
    }

    private static void readLines(LinkedBlockingQueue<String> lines) {
        try (var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (var line = input.readLine(); line != null; line = input.readLine()) {
                lines.add((String) JSONObjectUtils.parse(line).get("token"));
            }
            lines.add(END);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
    }

    public static void main(String[] arguments) throws Exception {
        var cache = arguments.length > 3 ? Long.valueOf(arguments[3]) : null;
        var service = new Verifier(new Keys(arguments[0], arguments[1], arguments[2], cache));
        var lines = new LinkedBlockingQueue<String>();
        var reader = new Thread(() -> readLines(lines));
        reader.setDaemon(true);
        reader.start();
        var ended = false;
        var planned = now();
        while (!(ended && service.live.isEmpty())) {
            var token = lines.poll(Math.max(1, planned - now()), TimeUnit.MILLISECONDS);
            if (END.equals(token)) {
                ended = true;
            } else if (token != null) {
                service.take(token);
            }
            // New tokens may keep coming; the old ones have their turn all the same.
            if (now() >= planned) {
                service.lookAgain(planned);
                planned = Math.max(planned + PASS, now());
            }
        }
        say(service.summary());
        System.out.flush();
        // The library's threads do not end by themselves.
        System.exit(0);
    }
}
