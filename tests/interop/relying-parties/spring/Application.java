package com.example.login;

import static org.springframework.security.config.Customizer.withDefaults;
import static org.springframework.security.oauth2.client.web.client.RequestAttributeClientRegistrationIdResolver.clientRegistrationId;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.security.config.annotation.web.builders.HttpSecurity;
import org.springframework.security.oauth2.client.OAuth2AuthorizedClientManager;
import org.springframework.security.oauth2.client.oidc.web.logout.OidcClientInitiatedLogoutSuccessHandler;
import org.springframework.security.oauth2.client.registration.ClientRegistrationRepository;
import org.springframework.security.oauth2.client.web.client.OAuth2ClientHttpRequestInterceptor;
import org.springframework.security.web.SecurityFilterChain;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

@SpringBootApplication
@RestController
class Application {
    private final RestClient api;

    // Sends the access token of the person, and refreshes it when it is about to expire.
    Application(@Value("${API}") String api, OAuth2AuthorizedClientManager clients) {
        this.api = RestClient.builder()
                .baseUrl(api)
                .requestInterceptor(new OAuth2ClientHttpRequestInterceptor(clients))
                .build();
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Application.class, arguments);
    }

    @Bean
    static SecurityFilterChain security(HttpSecurity http, ClientRegistrationRepository clients) {
        var ended = new OidcClientInitiatedLogoutSuccessHandler(clients);
        ended.setPostLogoutRedirectUri("{baseUrl}/bye");
        return http.authorizeHttpRequests(requests -> requests
                        .requestMatchers("/bye").permitAll()
                        .anyRequest().authenticated())
                .oauth2Login(withDefaults())
                .logout(logout -> logout.logoutSuccessHandler(ended))
                .build();
    }

    @GetMapping("/")
    String home() {
        return api.get().attributes(clientRegistrationId("keyround")).retrieve().body(String.class);
    }

    @GetMapping("/bye")
    String bye() {
        return "Logged out.";
    }
}
