package com.example.login;

import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Profile;
import org.springframework.security.oauth2.client.oidc.authentication.OidcIdTokenDecoderFactory;
import org.springframework.security.oauth2.client.registration.ClientRegistration;
import org.springframework.security.oauth2.jose.jws.SignatureAlgorithm;
import org.springframework.security.oauth2.jwt.JwtDecoderFactory;

@Configuration
@Profile("es256")
class Es256 {
    @Bean
    static JwtDecoderFactory<ClientRegistration> idTokens() {
        var idTokens = new OidcIdTokenDecoderFactory();
        idTokens.setJwsAlgorithmResolver(registration -> SignatureAlgorithm.ES256);
        return idTokens;
    }
}
