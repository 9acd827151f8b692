"""Streams in Supabase: functions called through supabase-py, news by Realtime broadcast."""
