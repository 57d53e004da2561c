-- A default does no harm to the binary before.
SELECT 1;
