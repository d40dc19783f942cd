package com.example.tokens;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.security.oauth2.jwt.JwtDecoder;
import org.springframework.security.oauth2.jwt.JwtValidators;
import org.springframework.security.oauth2.jwt.NimbusJwtDecoder;
import org.springframework.security.oauth2.jwt.SupplierJwtDecoder;

/** Accepts tokens of the type at+jwt (RFC 9068), and no others. */
@Configuration
public class AccessTokens {
    @Bean
    JwtDecoder jwtDecoder(
            @Value("${spring.security.oauth2.resourceserver.jwt.issuer-uri}") String issuer,
            @Value("${spring.security.oauth2.resourceserver.jwt.audiences}") String audience) {
        // The issuer is asked at the first token, so the service starts without it.
        return new SupplierJwtDecoder(() -> {
            // The decoder's own check accepts JWT alone; the validator below checks the type instead.
            var decoder = NimbusJwtDecoder.withIssuerLocation(issuer).validateType(false).build();
            decoder.setJwtValidator(
                    JwtValidators.createAtJwtValidator().issuer(issuer).audience(audience).build());
            return decoder;
        });
    }
}
