//! The tables, as diesel sees them on both databases.

diesel::table! {
    users (id) {
        id -> BigInt,
        provider -> Text,
        subject -> Text,
        email -> Nullable<Text>,
        email_verified -> Bool,
        display_name -> Nullable<Text>,
        state -> Text,
        created_at -> Timestamp,
        updated_at -> Timestamp,
        last_login_at -> Nullable<Timestamp>,
        last_idp_check_at -> Nullable<Timestamp>,
        provider_refresh_token -> Nullable<Binary>,
        admin -> Bool,
        idp_check_due_at -> Nullable<Timestamp>,
    }
}

diesel::table! {
    api_keys (id) {
        id -> BigInt,
        user_id -> BigInt,
        digest -> Binary,
        pepper_id -> Text,
        hint -> Text,
        name -> Text,
        created_at -> Timestamp,
        last_used_at -> Nullable<Timestamp>,
        expires_at -> Nullable<Timestamp>,
        revoked_at -> Nullable<Timestamp>,
        expiry_noted -> Bool,
    }
}

diesel::table! {
    sessions (id) {
        id -> Text,
        user_id -> BigInt,
        kind -> Text,
        digest -> Nullable<Binary>,
        created_at -> Timestamp,
        last_seen_at -> Timestamp,
        expires_at -> Timestamp,
        ended_at -> Nullable<Timestamp>,
        ip_address -> Nullable<Text>,
        user_agent -> Nullable<Text>,
    }
}

diesel::table! {
    refresh_tokens (id) {
        id -> BigInt,
        digest -> Binary,
        family -> Text,
        parent -> Nullable<BigInt>,
        user_id -> BigInt,
        issued_at -> Timestamp,
        expires_at -> Timestamp,
        used_at -> Nullable<Timestamp>,
        revoked_at -> Nullable<Timestamp>,
    }
}

diesel::table! {
    one_time_codes (digest) {
        digest -> Binary,
        kind -> Text,
        user_code -> Nullable<Binary>,
        challenge -> Nullable<Text>,
        redirect_uri -> Nullable<Text>,
        user_id -> Nullable<BigInt>,
        created_at -> Timestamp,
        expires_at -> Timestamp,
        denied_at -> Nullable<Timestamp>,
        used_at -> Nullable<Timestamp>,
        session_id -> Nullable<Text>,
        ip_address -> Nullable<Text>,
        user_agent -> Nullable<Text>,
    }
}

diesel::table! {
    auth_epoch (id) {
        id -> BigInt,
        epoch -> BigInt,
    }
}

diesel::table! {
    usage_records (id) {
        id -> BigInt,
        call_id -> Text,
        user_id -> BigInt,
        key_id -> Nullable<BigInt>,
        endpoint_type -> Text,
        operation -> Text,
        model_requested -> Text,
        model_id -> Text,
        region_requested -> Nullable<Text>,
        region -> Text,
        request_time -> Timestamp,
        response_time_ms -> Nullable<BigInt>,
        time_to_first_byte_ms -> Nullable<BigInt>,
        streamed -> Bool,
        input_tokens -> Nullable<BigInt>,
        output_tokens -> Nullable<BigInt>,
        cache_write_tokens -> Nullable<BigInt>,
        cache_write_1h_tokens -> Nullable<BigInt>,
        cache_read_tokens -> Nullable<BigInt>,
        estimated -> Bool,
        outcome -> Text,
        status -> Nullable<Integer>,
        error_code -> Nullable<Text>,
        error_message -> Nullable<Text>,
        upstream_attempts -> Integer,
        request_id -> Text,
        stop_reason -> Nullable<Text>,
        cost_nano_usd -> Nullable<BigInt>,
        price_id -> Nullable<BigInt>,
        upstream_request_id -> Nullable<Text>,
        client_session_id -> Nullable<Text>,
        client_agent_id -> Nullable<Text>,
    }
}

diesel::table! {
    model_costs (id) {
        id -> BigInt,
        region -> Text,
        model_id -> Text,
        valid_from -> Timestamp,
        ended -> Bool,
        input -> Nullable<BigInt>,
        output -> Nullable<BigInt>,
        cache_write -> Nullable<BigInt>,
        cache_write_1h -> Nullable<BigInt>,
        cache_read -> Nullable<BigInt>,
        long_input -> Nullable<BigInt>,
        long_output -> Nullable<BigInt>,
        long_cache_write -> Nullable<BigInt>,
        long_cache_write_1h -> Nullable<BigInt>,
        long_cache_read -> Nullable<BigInt>,
        source -> Text,
        created_at -> Timestamp,
    }
}

diesel::table! {
    usage_summaries (period_type, detail, period_start, user_id, key_id, model_id, region, endpoint_type) {
        period_type -> Text,
        detail -> Text,
        period_start -> Timestamp,
        user_id -> BigInt,
        key_id -> BigInt,
        model_id -> Text,
        region -> Text,
        endpoint_type -> Text,
        requests -> BigInt,
        errors -> BigInt,
        input_tokens -> BigInt,
        output_tokens -> BigInt,
        cache_write_tokens -> BigInt,
        cache_write_1h_tokens -> BigInt,
        cache_read_tokens -> BigInt,
        cost_nano_usd -> BigInt,
        unpriced -> BigInt,
        estimated -> BigInt,
        duration_ms -> BigInt,
        duration_count -> BigInt,
        first_byte_ms -> BigInt,
        first_byte_count -> BigInt,
    }
}

diesel::table! {
    usage_levels (level) {
        level -> Text,
        built_before -> Timestamp,
        cleaned_before -> Timestamp,
    }
}

diesel::table! {
    job_leases (job) {
        job -> Text,
        token -> BigInt,
        holder -> Text,
        expires_at -> Timestamp,
    }
}

diesel::table! {
    job_runs (id) {
        id -> BigInt,
        job -> Text,
        slot -> Nullable<Timestamp>,
        attempt -> BigInt,
        token -> BigInt,
        started_at -> Timestamp,
        finished_at -> Nullable<Timestamp>,
        outcome -> Nullable<Text>,
        rows -> Nullable<BigInt>,
        message -> Nullable<Text>,
        instance -> Text,
    }
}

diesel::table! {
    audit_logs (id) {
        id -> BigInt,
        created_at -> Timestamp,
        event_type -> Text,
        user_id -> Nullable<BigInt>,
        actor -> Text,
        provider -> Nullable<Text>,
        ip_address -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        object -> Text,
        success -> Bool,
        error_code -> Nullable<Text>,
        metadata -> Text,
        request_id -> Nullable<Text>,
        hash -> Binary,
    }
}

diesel::table! {
    audit_chain (id) {
        id -> BigInt,
        start_id -> BigInt,
        start_hash -> Binary,
        last_id -> BigInt,
        last_hash -> Binary,
    }
}

diesel::joinable!(api_keys -> users (user_id));
diesel::joinable!(sessions -> users (user_id));
diesel::joinable!(refresh_tokens -> sessions (family));
diesel::allow_tables_to_appear_in_same_query!(users, api_keys, sessions, refresh_tokens);
