"""Roles and grants for a ClickHouse server of your own: roles.sql."""
