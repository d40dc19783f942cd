import com.nimbusds.jose.JOSEObjectType;
import com.nimbusds.jose.JWSAlgorithm;
import com.nimbusds.jose.jwk.source.JWKSourceBuilder;
import com.nimbusds.jose.proc.DefaultJOSEObjectTypeVerifier;
import com.nimbusds.jose.proc.JWSVerificationKeySelector;
import com.nimbusds.jose.proc.SecurityContext;
import com.nimbusds.jose.util.DefaultResourceRetriever;
import com.nimbusds.jwt.JWTClaimsSet;
import com.nimbusds.jwt.proc.DefaultJWTClaimsVerifier;
import com.nimbusds.jwt.proc.DefaultJWTProcessor;
import java.net.URI;
import java.util.Set;

/**
 * The key set is kept for five minutes and fetched again for an unknown kid, but not more than twice within 30 seconds. When it is
 * told for how many seconds, it is kept for so long instead, and the other times are made to fit.
 */
final class Keys {
    // How long one fetch may take is no matter of caching; by default it is half a second, which a busy machine may need.
    private static final int TIMEOUT_MILLISECONDS = 5_000;

    private final DefaultJWTProcessor<SecurityContext> processor = new DefaultJWTProcessor<>();

    Keys(String issuer, String audience, String keySet, Long cacheSeconds) throws Exception {
        var retriever = new DefaultResourceRetriever(
                TIMEOUT_MILLISECONDS, TIMEOUT_MILLISECONDS, JWKSourceBuilder.DEFAULT_HTTP_SIZE_LIMIT);
        JWKSourceBuilder<SecurityContext> sources = JWKSourceBuilder.create(URI.create(keySet).toURL(), retriever);
        if (cacheSeconds != null) {
            sources.cache(cacheSeconds * 1_000, TIMEOUT_MILLISECONDS).refreshAheadCache(false).rateLimited(1_000);
        }
        var source = sources.build();
        var algorithms = Set.of(JWSAlgorithm.RS256, JWSAlgorithm.ES256);
        processor.setJWSTypeVerifier(new DefaultJOSEObjectTypeVerifier<>(new JOSEObjectType("at+jwt")));
        processor.setJWSKeySelector(new JWSVerificationKeySelector<>(algorithms, source));
        processor.setJWTClaimsSetVerifier(new DefaultJWTClaimsVerifier<>(
                audience, new JWTClaimsSet.Builder().issuer(issuer).build(), Set.of("exp", "sub")));
    }

    void verify(String token) throws Exception {
        processor.process(token, null);
    }
}
